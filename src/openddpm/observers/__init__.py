"""What looks on while a run trains: the terminal, trackers, the report, the Hub."""
