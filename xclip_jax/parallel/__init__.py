"""Many devices and hosts: how arrays and processes are laid out over them."""
