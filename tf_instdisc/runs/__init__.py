"""Run directories: their files, their images, and what is derived from them."""
