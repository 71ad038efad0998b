"""`bottlekit demo`: the whole pipe on real images, verb by verb, and the page that shows what came of it."""
