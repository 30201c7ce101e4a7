// Numbers and times as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit++;
  }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(count >= 10 ? 1 : 2)} ${UNITS[unit]}`;
}

export function count(number) {
  return number === null || number === undefined ? "–" : Math.round(number).toLocaleString("en-US");
}

export function rate(number) {
  const steps = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, letter] of steps) if (Math.abs(number) >= size) return `${(number / size).toFixed(1)}${letter}`;
  return number >= 10 || Number.isInteger(number) ? `${Math.round(number)}` : number.toFixed(1);
}

// Of the whole, in percent.
export function share(part, whole) {
  if (!whole) return "0 %";
  const percent = (part / whole) * 100;
  return `${percent > 0 && percent < 0.01 ? "< 0.01" : percent.toFixed(percent >= 10 || percent === 0 ? 0 : 2)} %`;
}

export function duration(seconds) {
  if (seconds < 1) return "0 s";
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  const [size, unit] = parts[first];
  const whole = Math.floor(seconds / size);
  const next = parts[first + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
}

const pad = (number) => String(number).padStart(2, "0");

// Seconds since the epoch as a day and a time, in UTC or the browser's own zone.
export function time(seconds, utc) {
  if (seconds === null || seconds === undefined) return "–";
  const date = new Date(seconds * 1000 - (utc ? 0 : new Date(seconds * 1000).getTimezoneOffset() * 60000));
  const day = `${date.getUTCFullYear()}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
  return `${day} ${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}`;
}

// Nanoseconds as a string of digits; seconds as a number are exact enough to be shown.
export function seconds(ns) {
  return ns === null || ns === undefined ? null : Number(BigInt(ns) / 1000000n) / 1000;
}
