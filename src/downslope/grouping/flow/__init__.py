"""What data passes through, told without a framework: a tracer says what was done, this what it means."""
