"""Where trials run.

connection  a Ray that is there already, or one started here
slots       how many trials fit on it
"""
