// Numbers, times and texts as people read them; and elements, whose text is never markup.

const UNKNOWN = "–";
const plain = new Intl.NumberFormat("en");

export function count(number) {
  return number === null || number === undefined ? UNKNOWN : plain.format(Math.round(number));
}

export function bytes(number) {
  return scaled(number, ["B", "kB", "MB", "GB", "TB", "PB"]);
}

export function rate(number) {
  return number === null || number === undefined ? UNKNOWN : `${bytes(number)}/s`;
}

export function roundTrip(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds === 0) return "0";
  if (seconds < 0.001) return `${short(seconds * 1e6)} µs`;
  return seconds < 1 ? `${short(seconds * 1e3)} ms` : `${short(seconds)} s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [whole / 86400, (whole / 3600) % 24, (whole / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function ago(seconds, now) {
  if (seconds === null || seconds === undefined) return "never";
  const passed = now - seconds;
  return passed < 2 ? "now" : `${duration(passed)} ago`;
}

export function shortId(id) {
  return id.slice(0, 16);
}

// An element with this text, if any, and these attributes. Text from elsewhere comes in only here,
// and is shown as it is.
export function element(name, text = null, attributes = {}) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Sets the text of an element, unless that is its text already.
export function put(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Shows pairs of a term and its description in a list, which is made once.
export function describe(list, pairs) {
  if (list.children.length !== pairs.length) {
    list.replaceChildren(
      ...pairs.map(() => {
        const pair = element("div");
        pair.append(element("dt"), element("dd"));
        return pair;
      }),
    );
  }
  pairs.forEach(([term, text], index) => {
    put(list.children[index].firstElementChild, term);
    put(list.children[index].lastElementChild, text);
  });
}

function scaled(number, units) {
  if (number === null || number === undefined) return UNKNOWN;
  let unit = 0;
  let rest = number;
  while (rest >= 999.5 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit ? short(rest) : Math.round(rest)} ${units[unit]}`;
}

function short(number) {
  return number < 9.95 ? number.toFixed(1) : plain.format(Math.round(number));
}
