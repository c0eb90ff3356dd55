// Made from nodes/view_contract.py by `python nodes/view_contract.py`; not to be edited.

/** An attribute of a trajectory. */
export interface Attribute {
  name: string
  /** ``#RRGGBB`` */
  colour: string
  /** the classifier's labels that it should raise */
  labels: string[]
}

/** The CFRT Evaluator's file. */
export interface CFRTFile {
  format: 1
  notice: string
  key: string
  kind: "swap" | "curve"
  neutral: string
  seeds: (number | string)[]
  attributes: Attribute[]
  points: string[]
  index: number[][][]
  view: "cfrt"
  /** the classifier's labels */
  labels: string[]
  /** of each row and label */
  probabilities: number[][]
  /** points of the trajectory's far part */
  far: string[]
  results: Result[]
}

/** The compare viewer's file. */
export interface CompareFile {
  format: 1
  /** that the images are synthetic and not for clinical use */
  notice: string
  view: "compare"
  /** width and height of an image, in pixels */
  size: number[]
  images: Pictures
  /** whether an image is grey and of 16 bits: the upper eight as red, the lower eight as green */
  deep: boolean
  pairs: Pair[]
  /** pairs that are not shown */
  left_out: number
}

/** In how many patients an attribute's probability passes a threshold, and where first. */
export interface FlipRate {
  /** flipped / could_flip; null where nobody could flip */
  rate: number | null
  /** 95 % */
  interval: number[] | null
  flipped: number
  /** patients whose neutral image does not pass */
  could_flip: number
  /** patients whose neutral image passes */
  already_above: number
  patients: number
  threshold: number
  /** the point by which half of those who flip have flipped */
  median_first_point: string | null
  patients_by_first_point: Record<string, number>
}

/** The latent map's file. */
export interface MapFile {
  format: 1
  notice: string
  key: string
  kind: "swap" | "curve"
  neutral: string
  seeds: (number | string)[]
  attributes: Attribute[]
  points: string[]
  index: number[][][]
  view: "map"
  /** of each row */
  x: number[]
  /** of each row */
  y: number[]
  perplexity: number
  seed: number
  sheets: Sheets | null
}

/** An image and its counterfactual. */
export interface Pair {
  title: string
  /** the image's row */
  before: number
  /** the row of its counterfactual */
  after: number
  /** the row of the true counterfactual, where it is known */
  truth?: number
  /** lines that are said of the pair */
  facts: string[]
}

/** Where the image of a row lies: in the file ``prefix + row + suffix``. */
export interface Pictures {
  subfolder: string
  type: "temp"
  prefix: string
  suffix: string
}

/** CFRT of one attribute. */
export interface Result {
  attribute: string
  /** index of its label */
  target: number
  cfrt: number
  /** of the 95 % interval */
  low: number
  /** of the 95 % interval */
  high: number
  successes: number
  patients: number
  /** the paper's CFRT */
  published: number | null
  /** of each patient */
  success: boolean[]
  /** of each patient the index of the label that rose most, -1 for a success */
  leaked: number[]
  /** of each patient the mean change of every label, -1 to 1 */
  deltas: number[][]
  flip_rate?: FlipRate
}

/** Where thumbnails lie: row by row on the contact sheets ``prefix + number + suffix``. */
export interface Sheets {
  subfolder: string
  type: "temp"
  prefix: string
  suffix: string
  /** cells across */
  columns: number
  /** cells down */
  rows: number
  /** pixels of a cell */
  side: number
}

/** What a node with a view puts into its ``ui``. */
export interface Shown {
  medtraverse_view: (Written | Unwritten)[]
}

/** The trajectory viewer's file. */
export interface TrajectoryFile {
  format: 1
  notice: string
  key: string
  kind: "swap" | "curve"
  neutral: string
  seeds: (number | string)[]
  attributes: Attribute[]
  points: string[]
  index: number[][][]
  view: "trajectory"
  /** width and height of an image, in pixels */
  size: number[]
  images: Pictures
  /** whether the images are rough colours of latents */
  approximate: boolean
  /** patients that are not shown */
  left_out: number
  /** where the server decodes an image when asked: followed by the row, an address */
  decoder?: string
}

/** Stands for a view whose files could not be written. */
export interface Unwritten {
  /** the reason, as the operating system gives it */
  unwritten: string
}

/** Names the JSON file of a view. Not by ``filename``: App mode would show such a file as a result. */
export interface Written {
  view: string
  subfolder: string
  type: "temp"
}

export type ViewFile = TrajectoryFile | MapFile | CFRTFile | CompareFile
