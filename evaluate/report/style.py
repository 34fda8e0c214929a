"""The report's style, on top of every report's."""

CSS = """
nav { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 0 0 26px; font-size: 13.5px; }
nav a { color: var(--muted); }
small { font-size: 12px; font-weight: 400; color: var(--muted); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.card { position: relative; }
.scroll { overflow-x: auto; }

thead td { border: 0; }
tbody th, tbody td { vertical-align: middle; }
tbody th { text-align: left; font-size: inherit; font-weight: 400; color: inherit;
  padding: 7px 8px; border-top: 1px solid var(--line); }
tr.task th { font-weight: 650; padding-top: 20px; border-top: 0; }
tbody:first-of-type tr.task th { padding-top: 6px; }
tbody th[scope="row"] { position: sticky; left: 0; background: var(--card); }
tr.main th[scope="row"], tr.main td { font-weight: 640;
  background: color-mix(in srgb, var(--colour) 7%, var(--card)); }
tr.part td, tr.part th { color: var(--muted); font-size: 13px; border-top: 0;
  padding: 1px 8px 4px; }
tr.part th[scope="row"] { padding-left: 28px; }
table.scores, table.summary { min-width: 760px; }
.range { min-width: 74px; }
thead th:not(:first-child) { text-align: right; }
.track { position: relative; height: 9px; border-radius: 5px; background: #edf0f3;
  width: 104px; overflow: hidden; }
.track i, .track b { position: absolute; top: 0; bottom: 0; left: 0; background: var(--colour); }
.track b { opacity: .3; }

table.heat { table-layout: fixed; border-collapse: separate; border-spacing: 2px;
  font-size: 13.5px; }
table.heat th, table.heat td { text-align: center; border: 0; padding: 5px 2px; }
table.heat th[scope="colgroup"] { white-space: normal; overflow-wrap: anywhere; }
table.heat th[scope="row"] { text-align: left; }
table.heat th[scope="col"]:first-child { text-align: left; vertical-align: bottom; }
table.heat .edge { border-left: 10px solid var(--card); }
table.heat .hot { background: color-mix(in srgb, #53b79a var(--heat), #f4f5f7);
  background-clip: padding-box; border-radius: 4px; }

details { border-top: 1px solid var(--line); }
summary { padding: 9px 4px; font-weight: 600; cursor: pointer; }
details[open] { padding-bottom: 12px; }
table + details { margin-top: 16px; }

.keys { display: flex; flex-wrap: wrap; gap: 2px 20px; font-size: 13px; color: var(--muted);
  margin-bottom: 12px; }
.plots { display: grid; gap: 18px 20px;
  grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); }
.videos { display: grid; gap: 20px 26px;
  grid-template-columns: repeat(auto-fill, minmax(min(492px, 100%), 1fr)); }
.videos + .videos { margin-top: 30px; }
figure img { display: block; width: 492px; max-width: 100%; }
@media (max-width: 640px) {
  table.scores, table.summary { min-width: 620px; }
  table.scores tbody th[scope="row"], table.summary tbody th[scope="row"] { white-space: normal;
    min-width: 126px; max-width: 150px; overflow-wrap: anywhere; }
}
@media print {
  details::details-content { content-visibility: visible; block-size: auto; }
  .scroll { overflow: visible; }
}
"""
