"""Tests of component-http; whatever of wokkel they import finds it ready for current Twisted."""

import component_http.compat  # noqa: F401
