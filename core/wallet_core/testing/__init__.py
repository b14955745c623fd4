"""Fakes of the ports: deterministic, in memory, with no thread and no time of their own.

One module for each side of the world. The contract tests in `tests/component` run on a fake and on what it stands for,
and keep the two alike. Waiting goes through the `Clock` port, so that a simulation with virtual time can carry them.
"""
