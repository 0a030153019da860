"""Run directories: their files, their images, and what is made of them."""
