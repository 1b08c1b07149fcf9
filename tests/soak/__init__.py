"""
The gateway as a process between two others that misbehave: what is lost, repeated or out of order is counted.

`make soak` (`python -m tests.soak`) runs every scenario in full and prints a table; `tests.integration.test_faults`
runs a few seconds of each. A run has three processes, all on loopback: the gateway (`gateway.tac`), its webhook
(`tests.soak.webhook`) and the load, which plays the XMPP side and keeps the ledger (`tests.soak.load`). Where a gateway
is killed there are several of it, one after the other on the same spool (`tests.soak.durable`).
"""
