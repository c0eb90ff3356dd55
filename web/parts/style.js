/** One style sheet for all widgets, in the theme's colours. */
import * as cfrt from './cfrt.js'
import * as compare from './compare.js'
import { make } from './elements.js'
import * as map from './map.js'
import * as viewer from './viewer.js'

const shared = `
.mt-view { position: relative; box-sizing: border-box; width: 100%; height: 100%; overflow: hidden;
  contain: inline-size;
  font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px;
  }
.mt-view > * { width: 100%; height: 100%; box-sizing: border-box; }
.mt-view :focus-visible { outline: 2px solid var(--p-primary-color, #64b5f6); outline-offset: -2px; }
.mt-view .mt-hint { height: auto; padding: 5px 8px; color: var(--descrip-text, #999); }
.mt-view .mt-hint:only-child { display: flex; height: 100%; align-items: center; justify-content: center;
  text-align: center; }
.mt-view .mt-hint[hidden] { display: none; }
.mt-view .mt-words { padding: 5px 8px; overflow: auto; white-space: pre-line; user-select: text; }
.mt-view button, .mt-view select { font: inherit; color: inherit; background: var(--comfy-menu-bg, #353535);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 1px 6px; min-height: 22px;
  cursor: pointer; }
.mt-view button[aria-pressed="true"] { border-color: var(--p-primary-color, #64b5f6);
  box-shadow: inset 0 0 0 1px var(--p-primary-color, #64b5f6); }
.mt-view button:disabled { opacity: .45; cursor: default; }
`

/** Put the style sheet into the page, once. */
export function addStyle() {
  if (document.getElementById('mt-style')) return
  const sheets = [shared, viewer.css, map.css, cfrt.css, compare.css]
  document.head.append(make('style', { id: 'mt-style' }, sheets.join('\n')))
}
