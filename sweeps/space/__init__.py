"""What is searched.

search_space   every trial a sweep may run
dimensions     its keys, in the order in which they are drawn
distributions  what may stand behind a key
references     bounds and conditions that name other keys
entries        one axis for each entry of a list
value_sources  what draws: at random, at the corners, as recorded
encoding       trials given by hand or taken from elsewhere, as a sampler sees them
"""
