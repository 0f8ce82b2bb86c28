/** Debian's Chromium, or the one that PAGELITE_CHROMIUM names. */
import { existsSync } from 'node:fs';

const path = process.env.PAGELITE_CHROMIUM ?? '/usr/bin/chromium';

export const hasChromium = (): boolean => existsSync(path);

export function chromiumPath(): string {
  if (!hasChromium()) throw new Error(`there is no Chromium at ${path}: apt-get install chromium`);
  return path;
}
