"""The record: requests, keys, jobs, releases; spool and SQL store. Imports no other room."""
