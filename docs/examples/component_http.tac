"""
A gateway as a Twisted application file.

Run it with: twistd -n -y component_http.tac
It reads component-http.toml beside it. Use a .tac if the gateway shares its process with other services or with
wokkel handlers of your own; otherwise `component-http run` needs no file like this.
"""

from pathlib import Path

from twisted.application.service import Application
from twisted.internet import reactor

from component_http import Gateway, Settings
from component_http.tap import exit_on_settings_error, heed_signals

application = Application("component-http")

# If the settings are wrong, or another gateway uses the spool, print a sentence for each mistake and exit with
# status 78, before twistd goes into the background.
file = Path(__file__).with_name("component-http.toml")
with exit_on_settings_error():
    gateway = Gateway(Settings.from_toml(file), reactor)
    gateway.prepare()

gateway.setServiceParent(application)

# A second SIGTERM ends the wait for deliveries under way, and SIGHUP reads the settings again.
reactor.callWhenRunning(heed_signals, gateway, reactor, lambda: Settings.from_toml(file))

# You can add any wokkel XMPPHandler to the gateway's stream; it sees each stanza before the webhook does:
# gateway.addHandler(MyHandler())
