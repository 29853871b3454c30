"""What the application knows while it runs."""

started = False


def start():
    global started
    started = True
