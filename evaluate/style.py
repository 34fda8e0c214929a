"""The report's style, on top of every report's."""

CSS = """
th:nth-child(2), th:nth-child(4), th:nth-child(5) { padding-right: 78px; }
tr.main td { font-weight: 640; background: color-mix(in srgb, var(--colour) 7%, transparent); }
tr.part td { color: var(--muted); font-size: 13px; border-top: 0; padding: 1px 8px 4px; }
tr.part td:first-child { padding-left: 28px; }
.track { position: relative; height: 9px; border-radius: 5px; background: #edf0f3;
  width: 104px; overflow: hidden; }
.track i, .track b { position: absolute; top: 0; bottom: 0; left: 0; background: var(--colour); }
.track b { opacity: .3; }
.videos { display: grid; gap: 20px 26px;
  grid-template-columns: repeat(auto-fill, minmax(min(492px, 100%), 1fr)); }
figure img { display: block; width: 492px; max-width: 100%; }
"""
