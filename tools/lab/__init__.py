"""What measures this project itself, for its developers."""
