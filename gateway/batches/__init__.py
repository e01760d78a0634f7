"""``/v1/files`` and ``/v1/batches``: requests that come as a file and are asked when nobody else needs the models."""
