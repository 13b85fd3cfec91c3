"""What one sweep is, and how it comes from YAML files and typed words.

settings  plain dataclasses with every range check
compose   from files and words to settings; the only file that imports Hydra
quoting   values as words
schema    from plain values to parts of the settings
errors    what is said of a wrong request
"""
