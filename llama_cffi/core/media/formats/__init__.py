"""What the bytes of image and sound files say of themselves, checked before native code decodes them."""
