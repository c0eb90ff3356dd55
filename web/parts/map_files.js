/**
 * The latent map's coordinates and picture as files to download, each ended by the notice; its seeds as text
 * to copy.
 */
import { contextOf, make } from './elements.js'
import { theme } from './map_paint.js'
import { fromHex, toCSS } from './scales.js'

/** @import { Attribute } from '../types/views' */
/** @import { LatentMapView } from './map.js' */

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const url = URL.createObjectURL(blob)
  make('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 1000)
}

/** @param {LatentMapView} map */
export function downloadTable({ opened, delta }) {
  if (!opened) return
  const { cloud, view } = opened
  const cell = (/** @type {string | number} */ value) =>
    /[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value
  /** @type {(string | number)[][]} */
  const lines = [['row', 'seed', 'attribute', 'point', 'x', 'y', 'delta']]
  for (let row = 0; row < cloud.count; row++) {
    if (cloud.patient[row] < 0) continue
    lines.push([
      row,
      view.seeds[cloud.patient[row]],
      view.attributes[cloud.attribute[row]]?.name ?? '',
      view.points[cloud.point[row]],
      view.x[row],
      view.y[row],
      delta && Number.isFinite(delta[row]) ? delta[row].toFixed(6) : '',
    ])
  }
  lines.push([view.notice])
  download(
    new Blob([lines.map((line) => line.map(cell).join(',') + '\n').join('')], { type: 'text/csv' }),
    'latent_map.csv',
  )
}

/**
 * Lines of attributes that fit the width.
 * @param {CanvasRenderingContext2D} context
 * @param {Attribute[]} attributes
 * @param {number} width
 */
function wrapped(context, attributes, width) {
  /** @type {{text: string, colour: string, x: number}[][]} */
  const lines = [[]]
  let x = 6
  for (const { name, colour } of attributes) {
    const text = `● ${name}`,
      wide = context.measureText(`${text}   `).width
    if (x + wide > width && lines[lines.length - 1].length) {
      lines.push([])
      x = 6
    }
    lines[lines.length - 1].push({ text, colour: toCSS(fromHex(colour)), x })
    x += wide
  }
  return lines
}

/** @param {LatentMapView} map */
export function downloadPicture(map) {
  if (!map.opened) return
  map.draw()
  const { canvas, width, height, view } = map,
    ratio = canvas.width / width
  if (!canvas.width || !canvas.height || !ratio) return
  const page = make('canvas'),
    context = contextOf(page),
    font = '12px sans-serif'
  context.font = font
  const legend =
    map.colour === 'attribute'
      ? wrapped(
          context,
          view.attributes.filter((_, a) => map.visible[a]),
          width,
        )
      : []
  Object.assign(page, {
    width: canvas.width,
    height: canvas.height + Math.ceil((18 * legend.length + 24) * ratio),
  })
  context.fillStyle = theme(map.element, '--comfy-input-bg', '#222')
  context.fillRect(0, 0, page.width, page.height)
  context.drawImage(canvas, 0, 0)
  context.scale(ratio, ratio)
  context.font = font
  legend.forEach((line, i) =>
    line.forEach(({ text, colour, x }) => {
      context.fillStyle = colour
      context.fillText(text, x, height + 14 + 18 * i)
    }),
  )
  context.fillStyle = theme(map.element, '--fg-color', '#ddd')
  context.fillText(view.notice, 6, height + 16 + 18 * legend.length, width - 12)
  page.toBlob((blob) => blob && download(blob, 'latent_map.png'))
}

/** @param {LatentMapView} map */
export async function copySeeds({ seedsBox, said, host }) {
  try {
    await navigator.clipboard.writeText(seedsBox.value)
    said.textContent = host.t('Copied.')
  } catch {
    seedsBox.focus()
    seedsBox.select()
    said.textContent = host.t('Press Ctrl+C to copy.')
  }
}
