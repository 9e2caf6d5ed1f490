"""What turns a method's state machine: a loop on the host, a jitted loop, or lanes in lock step."""
