"""Large buffers between processes of one host: `pool` holds them, `link` shares pools over a connection."""
