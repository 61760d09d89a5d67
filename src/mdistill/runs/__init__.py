"""Run folders: locks, ledgers, typed results, hardware."""
