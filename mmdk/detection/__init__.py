"""What only MMDetection needs."""
