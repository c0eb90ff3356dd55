/** What the latent map draws, and its style sheet. */
/** @import { LatentMapView } from './map.js' */
import { GREY, diverging, sequential, toCSS, toPixel } from './scales.js'

export const css = `
.mt-map { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; min-height: 0;
  padding: 6px; box-sizing: border-box; color: var(--fg-color, #ddd); font: 12px sans-serif; }
.mt-map:focus-visible, .mt-map :focus-visible { outline: 2px solid var(--p-primary-color, #4a9eff);
  outline-offset: -2px; }
.mt-map-bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.mt-map-bar :is(button, select) { font: inherit; padding: 2px 6px;
  border: 1px solid var(--border-color, #555); border-radius: 4px; background: var(--comfy-input-bg, #222);
  color: var(--input-text, #ddd); cursor: pointer; }
.mt-map-bar button[aria-pressed=true] { border-color: var(--p-primary-color, #4a9eff); }
.mt-map-legend button[aria-pressed=false] { opacity: .5; text-decoration: line-through; }
.mt-map-legend i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 4px; }
.mt-map-plot { position: relative; flex: 1; min-height: 80px; overflow: hidden; }
.mt-map-plot > canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none;
  cursor: grab; }
.mt-map-plot.mt-lasso > canvas { cursor: crosshair; }
.mt-map-tip { position: absolute; pointer-events: none; padding: 4px;
  border: 1px solid var(--border-color, #555); border-radius: 4px; background: var(--comfy-menu-bg, #333);
  color: var(--fg-color, #ddd); white-space: pre-line; }
.mt-map-tip canvas { display: block; width: 96px; height: 96px; }
.mt-map-picked { display: flex; gap: 4px; }
.mt-map-picked textarea { flex: 1; height: 3em; resize: none; font: inherit;
  border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #222);
  color: var(--input-text, #ddd); }
.mt-map [hidden] { display: none; }
.mt-map-said { color: var(--descrip-text, #999); min-height: 1.2em; }
`

/** @param {HTMLElement} element @param {string} name of a CSS variable @param {string} fallback */
export const theme = (element, name, fallback) =>
  getComputedStyle(element).getPropertyValue(name).trim() || fallback

/**
 * Lines and dots into the map's raster.
 * @param {LatentMapView} map
 * @param {CanvasRenderingContext2D} context of its canvas
 * @param {number} ratio device pixels per CSS pixel
 */
export function drawDots(map, context, ratio) {
  const { width, height } = context.canvas
  const { cloud, raster, colours } = map,
    { paths, steps, attributes } = cloud
  context.fillStyle = '#222'
  context.fillStyle = theme(map.element, '--comfy-input-bg', '#222')
  context.fillRect(0, 0, 1, 1)
  raster.clear(width, height, toPixel(/** @type {any} */ (context.getImageData(0, 0, 1, 1).data)))
  const k = map.scale * ratio,
    left = width / 2 - map.pan[0] * k,
    top = height / 2 - map.pan[1] * k
  const faint = cloud.count > 5000 ? 40 : 110
  for (let at = 0; at < paths.length; at++) {
    const row = paths[at],
      before = at % steps ? paths[at - 1] : -1
    if (row < 0 || before < 0 || !map.visible[Math.floor(at / steps) % attributes]) continue
    raster.line(
      left + cloud.x[before] * k,
      top + cloud.y[before] * k,
      left + cloud.x[row] * k,
      top + cloud.y[row] * k,
      colours[row],
      faint,
    )
  }
  const size =
    ratio * Math.min(2.5, map.zoom ** 0.3) * Math.min(1, Math.max(0.45, (2000 / cloud.count) ** 0.25))
  const radius = (/** @type {number} */ n) => Math.max(0.8, size * (1.8 + (2.6 * n) / Math.max(1, steps - 1)))
  const stamps = map.view.points.map((_, n) => raster.stamp(radius(n), 0.9))
  const rimmed = map.colour === 'delta' || map.colour === 'lambda'
  const rims = rimmed ? map.view.points.map((_, n) => raster.stamp(radius(n) + 0.7 * ratio, 0.6)) : undefined
  const rim = toPixel(GREY)
  for (let row = 0; row < cloud.count; row++) {
    if (!map.shown(row)) continue
    const x = left + cloud.x[row] * k,
      y = top + cloud.y[row] * k,
      n = cloud.point[row]
    if (rims) raster.dot(x, y, rims[n], rim)
    raster.dot(x, y, stamps[n], colours[row])
  }
}

/**
 * The scale of the colours, the axes' names, the lasso and the dot under the pointer.
 * @param {LatentMapView} map
 * @param {CanvasRenderingContext2D} context
 */
export function drawOver(map, context) {
  const { view, cloud, width, height } = map
  const at = (/** @type {number} */ x, /** @type {number} */ y) => map.place(x, y)
  const strong = theme(map.element, '--fg-color', '#ddd')
  context.font = '11px sans-serif'
  context.fillStyle = theme(map.element, '--descrip-text', '#999')
  context.fillText(
    `t-SNE 1 →   ↑ t-SNE 2   ${map.host.t('perplexity')} ${+view.perplexity.toFixed(1)}, ${map.host.t('seed')} ${view.seed}`,
    6,
    height - 6,
  )
  if (map.colour === 'lambda' || map.colour === 'delta') drawScale(map, context, width - 126, 8)
  context.strokeStyle = strong
  if (map.hovered >= 0) {
    const row = map.hovered,
      a = Math.max(0, cloud.attribute[row]),
      start = (cloud.patient[row] * cloud.attributes + a) * cloud.steps
    const path = [...cloud.paths.subarray(start, start + cloud.steps)].filter((r) => r >= 0)
    context.lineWidth = 1.5
    context.beginPath()
    if (cloud.attribute[row] >= 0) path.forEach((r) => context.lineTo(...at(cloud.x[r], cloud.y[r])))
    context.stroke()
    context.beginPath()
    context.arc(...at(cloud.x[row], cloud.y[row]), 7, 0, 2 * Math.PI)
    context.stroke()
  }
  if (map.lasso.length) {
    context.lineWidth = 1
    context.setLineDash([4, 3])
    context.beginPath()
    map.lasso.forEach((/** @type {[number, number]} */ [x, y]) => context.lineTo(...at(x, y)))
    context.closePath()
    context.stroke()
    context.setLineDash([])
  }
}

/**
 * @param {LatentMapView} map
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 */
function drawScale(map, context, x, y) {
  const delta = map.colour === 'delta'
  for (let i = 0; i < 120; i++) {
    context.fillStyle = toCSS(delta ? (map.delta ? diverging(i / 59.5 - 1) : GREY) : sequential(i / 119))
    context.fillRect(x + i, y, 1.5, 8)
  }
  context.fillStyle = theme(map.element, '--fg-color', '#ddd')
  const names = delta
    ? ['-1', 'Δ', '+1']
    : [map.view.points[0], map.view.kind === 'curve' ? '' : 'λ', map.view.points[map.view.points.length - 1]]
  names.forEach((name, i) => {
    context.textAlign = /** @type {const} */ (['left', 'center', 'right'])[i]
    context.fillText(name, x + 60 * i, y + 20)
  })
  context.textAlign = 'left'
}
