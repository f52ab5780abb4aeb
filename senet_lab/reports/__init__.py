"""What is read off the records: the paper's numbers, statistics, tables and figures. Trains nothing, needs no torch."""
