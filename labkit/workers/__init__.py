"""Jobs in another Python. `launch` and `commands` are labkit's half; `side` and the scripts run where torch is."""
