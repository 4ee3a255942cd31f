"""Packed datasets: pictures in Parquet shards that stream, in an order that was drawn once."""
