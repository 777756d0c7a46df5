"""A page and a REST service over the files of one folder, `web.app.create_app`; needs the extra `web`."""
