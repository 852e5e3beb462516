"""What callers say was right: kept where the operator wants it, exported as training data."""
