"""What the commands show on a terminal and read from it: tables, progress, single keys. It knows no flags."""
