"""What a model may say that must not be taken for more than text."""

from __future__ import annotations

HOSTILE = """# <img src=x onerror=alert(1)>

<script>alert(2)</script> **<b onclick=alert(3)>bold</b>** `<i>` [click](javascript:alert(4)) [x](data:text/html,y)
![shot](https://example.com/pixel.png) [good](https://example.com/a_(b)?c=1&d=2) https://example.org/x. <https://e.org>
[vb](vbscript:1) [r](//example.com) [f](file:///etc/passwd) [s](JaVaScRiPt:alert\\(1\\))

| a | b |
|---|:-:|
| `x|y` | <svg onload=alert(5)> |

> quoted *text*
> - and a list

1. one
   - nested
   - **more**
2. two

```html
<img src=x onerror=alert(6)>
```

</textarea></script><style>*{display:none}</style>
"""

__all__ = ["HOSTILE"]
