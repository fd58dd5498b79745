// Unpacks the browser of the package into a folder: bin/chromium, a script that starts it with the
// libraries and the font that come with it, so that a bare machine needs nothing else.
'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { pipeline } = require('node:stream/promises');
const zlib = require('node:zlib');

async function main(folder) {
  const packed = path.join(folder, 'node_modules/@sparticuz/chromium/bin');
  const bin = path.join(folder, 'bin');
  fs.mkdirSync(bin, { recursive: true });
  await pipeline(
    fs.createReadStream(path.join(packed, 'chromium.br')),
    zlib.createBrotliDecompress(),
    fs.createWriteStream(path.join(bin, 'headless_shell'), { mode: 0o755 }),
  );
  for (const name of ['al2023', 'fonts', 'swiftshader']) {
    const tar = zlib.brotliDecompressSync(fs.readFileSync(path.join(packed, `${name}.tar.br`)));
    execFileSync('tar', ['-x', '-C', bin], { input: tar });
  }
  const fonts = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir>${bin}/fonts</dir>
  <cachedir>${bin}/fonts-cache</cachedir>
</fontconfig>
`;
  fs.writeFileSync(path.join(bin, 'fonts.conf'), fonts);
  const script = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/headless_shell" "$@"
`;
  fs.writeFileSync(path.join(bin, 'chromium'), script, { mode: 0o755 });
}

main(path.resolve(process.argv[2]));
