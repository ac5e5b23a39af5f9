"""Deliveries to typed raw tables: readers by format, the quarantine, the delivery account, events."""
