/** Settings that would keep an endpoint from starting become comments; everything else stays as it was, byte for byte. */
import { expect, it } from 'vitest';
import { configurationForBranch } from '../../engine/import/configuration.ts';

const encoder = new TextEncoder();
const run = (text: string) => {
  const { bytes, leftOut } = configurationForBranch(encoder.encode(text));
  return { text: new TextDecoder().decode(bytes), leftOut };
};

it('settings that name files are comments', () => {
  const before = `work_mem = '9MB'\r\nshared_preload_libraries = 'auto_explain'\n  INCLUDE 'more.conf'\nhba_file='/etc/hba'\ninclude_dir 'conf.d'`;
  expect(run(before)).toEqual({
    text: `work_mem = '9MB'\r\n#shared_preload_libraries = 'auto_explain'\n#  INCLUDE 'more.conf'\n#hba_file='/etc/hba'\n#include_dir 'conf.d'`,
    leftOut: ['shared_preload_libraries', 'include', 'hba_file', 'include_dir'],
  });
});

it('others stay', () => {
  const text = `# shared_preload_libraries = 'x'\nshared_preload_libraries = ''  # none\ninclude_realm = on\nsearch_path = 'data_directory'\n\n\n`;
  expect(run(text)).toEqual({ text, leftOut: [] });
  expect(run('')).toEqual({ text: '', leftOut: [] });
});

it('bytes that are no text stay', () => {
  const bytes = new Uint8Array([35, 0xff, 0xfe, 10, 0xc3, 10, 0x00]);
  expect(configurationForBranch(bytes).bytes).toEqual(bytes);
});
