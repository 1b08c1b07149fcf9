# The gateway of a run: `twistd -n -y gateway.tac`, in a folder that holds gateway.toml.

from tests.soak.entry import assemble

application = assemble()
