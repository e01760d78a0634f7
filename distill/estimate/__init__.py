"""What distilling would bring, from logs alone, before there is any student."""
