"""Screening: many structures read, predicted and ranked."""
