"""Training: vectors of many texts optimised at once against a frozen LM."""
