"""One file per task; the registry finds every module here."""
