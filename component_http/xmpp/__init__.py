"""The XMPP edge: what knows wokkel."""

import component_http.compat  # noqa: F401  (before anything of wokkel)
