"""Memories: context vectors of a store in front of prompts of a frozen LM."""
