"""What is done, by whom, with what: locks, ledgers, typed results, hardware."""
