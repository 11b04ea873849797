"""What a checkpoint's folder holds, brought into one shape: its files, its network, how it wants pictures and texts.

Published folders differ much in layout, and may say anything: what does not fit together ends here, in one line.
"""
