"""Real services on loopback: Redis, Kafka, Ganache and anvil, for `make demo` and for the tests.

Two users with one need. The demo starts services that outlive the command (`python -m devstack up`, data under
`.local/`); the tests start services that die with the test process. Both want the same promise: *the server that
answers is the one we started*, and what we started is what we stop, nothing else.

    tools       finds or installs the programs
    processes   identities of processes, owners of ports, starting and stopping
    services    one class a service, which starts, proves and stops it
    stack       the demo's three services together, and their records under .local/run/services
    errors      everything that can go wrong, each one line with its remedy

Standard library only: it has to run before anything is installed. Not part of the wheel; it is reached by
`PYTHONPATH=deploy/local`.
"""
