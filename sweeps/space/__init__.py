"""What is searched.

search_space   every trial a sweep may run
reading        from what is written to its keys
dimensions     its keys, in the order in which they are drawn
distributions  what may stand behind a key
references     bounds and conditions that name other keys
possible       what keys may be in its trials, whether they are searched or not
effects        when keys do something in its trials; idle refuses those that never do
conditions     when a key is set, for people
entries        one axis for each entry of a list
value_sources  what draws: at random, at the corners, as recorded
encoding       trials given by hand or taken from elsewhere, as a sampler sees them
"""
