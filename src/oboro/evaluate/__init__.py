"""How samples, reconstructions and likelihoods are measured, and the protocol that says how a number was obtained.

``evaluator.py`` measures. ``protocol.py`` has what two numbers must share to be compared, ``result.py`` what a
measurement gives, how it is printed and how its file is read.
"""
