"""What looks on while a run trains: the terminal, TensorBoard, the report, the Hub."""
