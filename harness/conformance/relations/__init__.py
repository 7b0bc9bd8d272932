"""Relations: a program is asked twice, in ways between which nothing may change, and compared with itself.

asking   questions in ids or in text, about models as they are and changed ones
judge    whether two answers are the same, and what it means if they are not
"""
