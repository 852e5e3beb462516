"""`python -m study`: what format, quantisation and decoding cost and gain, measured on this machine.

The parent process chooses rows, builds weights and writes tables; every configuration is measured in a
child of its own (:mod:`study.worker`), which imports only what that configuration needs.
"""
